//! Certificates: a quorum's votes on one thing, as proof for anyone who knows the committee.

use crate::{
    Committee, Vote, VoteKind,
    committee::MAX_VALIDATORS,
    keys::Verify,
    planted::{self, Defect},
    vote::{VOTE_SIZE, VoteProof},
    wire::{Put, Reader, WireError},
};

/// A quorum's votes. Prepare: the block can't be another in this view, and its signatures are good, because f + 1 checked them. Commit: it is final. Checkpoint: so is the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// What was voted; the flag of each vote stands in its proof, here it is always false.
    pub vote: Vote,
    /// The votes, by ascending replica.
    pub proofs: Vec<VoteProof>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// Fewer votes than a quorum.
    #[error("{have} votes are fewer than the quorum of {quorum}")]
    Quorum {
        /// Votes present.
        have: usize,
        /// Votes needed.
        quorum: usize,
    },
    /// Prepare votes of too few that have checked the block's signatures.
    #[error("{have} of the voters checked the block, fewer than {needed}")]
    Unchecked {
        /// Votes with the flag.
        have: usize,
        /// f + 1.
        needed: usize,
    },
    /// A vote whose signature does not fit.
    #[error("the vote of replica {0} is forged")]
    Forged(u16),
}

impl Certificate {
    /// Appends the layout: vote (52), number of proofs (2), proofs.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.vote.to_bytes());
        out.put_u16(u16::try_from(self.proofs.len()).expect("at most MAX_VALIDATORS"));
        for proof in &self.proofs {
            proof.encode(out);
        }
    }

    /// Reads one certificate. Replicas must ascend, so no vote counts twice.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Certificate, WireError> {
        let vote = Vote::parse(&reader.array::<VOTE_SIZE>()?)?;
        if vote.checked {
            return Err(WireError::Field("vote flags"));
        }
        let count = usize::from(reader.u16()?);
        if count > MAX_VALIDATORS {
            return Err(WireError::Field("proof count"));
        }
        let mut proofs: Vec<VoteProof> = Vec::with_capacity(count);
        for _ in 0..count {
            let proof = VoteProof::decode(reader)?;
            if proofs.last().is_some_and(|last| last.replica >= proof.replica) {
                return Err(WireError::Field("proof order"));
            }
            if proof.checked && vote.kind != VoteKind::Prepare {
                return Err(WireError::Field("vote flags"));
            }
            proofs.push(proof);
        }
        Ok(Certificate { vote, proofs })
    }

    /// Whether a quorum of this committee stands behind it; for a prepare, f + 1 of them having checked the block.
    pub fn check(&self, committee: &Committee, verify: &Verify) -> Result<(), CertificateError> {
        let (have, quorum) = (self.proofs.len(), committee.quorum());
        if have < quorum {
            return Err(CertificateError::Quorum { have, quorum });
        }
        let (have, needed) =
            (self.proofs.iter().filter(|proof| proof.checked).count(), committee.faulty() + 1);
        let needed = needed - usize::from(planted::is(Defect::CheckerRuleShort));
        if self.vote.kind == VoteKind::Prepare && have < needed {
            return Err(CertificateError::Unchecked { have, needed });
        }
        match self.proofs.iter().find(|proof| !proof.proves(&self.vote, committee, verify)) {
            Some(proof) => Err(CertificateError::Forged(proof.replica)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, VerifyingKey};

    use super::*;
    use crate::{Hash, VoteBundle, hash::Domain, keys::KeyPair};

    fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let key = VerifyingKey::from_bytes(key).unwrap();
        key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    fn setup() -> (Vec<KeyPair>, Committee) {
        let keys: Vec<KeyPair> = (0..4).map(|i| KeyPair::from_seed(&[i; 32])).collect();
        let committee = Committee::new(7, 0, keys.iter().map(KeyPair::public).collect()).unwrap();
        (keys, committee)
    }

    fn votes(of: Vote, count: u64) -> Vec<Vote> {
        (0..count).map(|i| Vote { height: of.height + i, ..of }).collect()
    }

    fn certificate(voters: std::ops::Range<u16>) -> (Certificate, Committee) {
        let (keys, committee) = setup();
        let digest = Domain::BLOCK.hash(b"block");
        let vote = Vote { kind: VoteKind::Prepare, checked: false, table: 1, view: 2, height: 3, digest };
        let proofs = voters
            .map(|replica| {
                let cast = Vote { checked: replica % 2 == 0, ..vote };
                let mut all = votes(Vote { height: 30, ..vote }, u64::from(replica) + 2);
                all.insert(1, cast);
                let key = &keys[usize::from(replica)];
                let bundle = VoteBundle::sign(key, &committee, replica, 0, all);
                let bundle = VoteBundle::parse(&bundle.to_bytes()).unwrap();
                bundle.proof(1)
            })
            .collect();
        (Certificate { vote, proofs }, committee)
    }

    #[test]
    fn a_quorum_convinces_and_less_does_not() {
        let (good, committee) = certificate(0..3);
        assert_eq!(good.check(&committee, &verify), Ok(()));
        let mut bytes = Vec::new();
        good.encode(&mut bytes);
        assert_eq!(Certificate::decode(&mut Reader::new(&bytes)), Ok(good.clone()));
        let (few, _) = certificate(0..2);
        assert_eq!(few.check(&committee, &verify), Err(CertificateError::Quorum { have: 2, quorum: 3 }));
        // Of replicas 0 to 3 the even ones have checked.
        let (mut half, committee4) = certificate(0..4);
        half.proofs.remove(0);
        assert_eq!(half.check(&committee4, &verify), Err(CertificateError::Unchecked { have: 1, needed: 2 }));
        let mut twice = good.clone();
        twice.proofs[1] = twice.proofs[0].clone();
        bytes.clear();
        twice.encode(&mut bytes);
        assert_eq!(Certificate::decode(&mut Reader::new(&bytes)), Err(WireError::Field("proof order")));
    }

    #[test]
    fn any_change_is_a_forgery() {
        let (good, committee) = certificate(0..3);
        let forged = [
            Certificate { vote: Vote { kind: VoteKind::Commit, ..good.vote }, ..good.clone() },
            Certificate { vote: Vote { view: 1, ..good.vote }, ..good.clone() },
            Certificate { vote: Vote { height: 4, ..good.vote }, ..good.clone() },
            Certificate { vote: Vote { table: 4, ..good.vote }, ..good.clone() },
            Certificate { vote: Vote { digest: Hash::ZERO, ..good.vote }, ..good.clone() },
        ];
        for certificate in forged {
            assert!(certificate.check(&committee, &verify).is_err(), "{:?}", certificate.vote);
        }
        let mut flag = good.clone();
        flag.proofs[1].checked = true;
        assert_eq!(flag.check(&committee, &verify), Err(CertificateError::Forged(1)));
        let other = Committee::new(8, 0, committee.replicas().map(|r| *committee.key(r).unwrap()).collect());
        assert!(good.check(&other.unwrap(), &verify).is_err(), "a vote of another network");
    }
}

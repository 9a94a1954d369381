//! The rule of validity (ZIP-215), piece by piece; the batch uses the same pieces.

use curve25519_dalek::Scalar;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::traits::IsIdentity;
use sha2::{Digest, Sha512};

/// Whether `signature` (`R ‖ s`) by `key` on `message` is valid under ZIP-215.
///
/// Takes the time of one variable-time double scalar multiplication and two decompressions; for more than a
/// handful at a time use [`Batch`](super::Batch), whose verdicts are the same.
#[must_use]
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let (r_bytes, s_bytes) = split(signature);
    let Some(s) = canonical_scalar(s_bytes) else { return false };
    let Some(a) = decompress(key) else { return false };
    let Some(r) = decompress(r_bytes) else { return false };
    let k = Scalar::from_bytes_mod_order_wide(&challenge(r_bytes, key, message));
    is_zero(&(EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-a, &s) - r))
}

/// The halves `R` and `s` of a signature.
pub(super) fn split(signature: &[u8; 64]) -> (&[u8; 32], &[u8; 32]) {
    let (r, rest) = signature.split_first_chunk().expect("64 bytes hold 32");
    (r, rest.try_into().expect("the rest is 32 bytes"))
}

/// `s` as a scalar, if it is below the group order `l`.
pub(super) fn canonical_scalar(bytes: &[u8; 32]) -> Option<Scalar> {
    Scalar::from_canonical_bytes(*bytes).into_option()
}

/// The point that `bytes` encode.
///
/// ZIP-215 wants two kinds of encodings accepted that RFC 8032 forbids: `y ≥ p`, and `x = 0` with the sign bit
/// set. `CompressedEdwardsY::decompress` accepts both; the test over all 14 × 14 low-order encodings
/// holds it to that.
pub(super) fn decompress(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    CompressedEdwardsY(*bytes).decompress()
}

/// `SHA-512(R ‖ A ‖ M)` over the encodings as they came, not yet reduced mod `l`.
pub(super) fn challenge(r: &[u8; 32], key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(r).chain_update(key).chain_update(message).finalize().into()
}

/// Whether `[8]point` is the identity: the cofactored equation's zero.
///
/// It makes reducing coefficients mod `l` harmless for points with a torsion part: they differ by a multiple
/// of `l`, and `[8][l]P = 0` for every `P`.
pub(super) fn is_zero(point: &EdwardsPoint) -> bool {
    point.mul_by_cofactor().is_identity()
}

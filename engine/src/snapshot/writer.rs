//! Writing a snapshot as its sections come.

use std::io;
use std::path::{Path, PathBuf};

use dag::{
    Hash,
    planted::{self, Defect},
};
use netio::AlignedBuf;

use super::format::{SECTOR, SnapshotHeader, SnapshotId, section_header};
use super::store;
use crate::side::disk::{Disk, DiskFile, name};

/// Bytes written at a time.
const CHUNK: usize = 256 << 10;

/// A snapshot that is being written, under its temporary name.
pub(crate) struct SnapshotWriter<D: Disk> {
    disk: D,
    file: D::File,
    directory: PathBuf,
    temporary: PathBuf,
    id: SnapshotId,
    /// The end of the body, not yet written.
    buf: AlignedBuf,
    /// Where `buf` goes.
    offset: u64,
    hasher: blake3::Hasher,
    body_bytes: u64,
    sections: u32,
}

impl<D: Disk> SnapshotWriter<D> {
    /// Begins a snapshot in `directory`.
    pub(crate) async fn create(disk: D, directory: &Path, id: SnapshotId) -> io::Result<Self> {
        let temporary = store::temporary_path(directory, id.table, id.height);
        let file = disk.create(&temporary).await?;
        Ok(Self {
            disk,
            file,
            directory: directory.to_path_buf(),
            temporary,
            id,
            buf: AlignedBuf::with_capacity(CHUNK),
            offset: SECTOR as u64,
            hasher: blake3::Hasher::new(),
            body_bytes: 0,
            sections: 0,
        })
    }

    /// Which snapshot it is.
    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    /// Appends a section.
    pub(crate) async fn section(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.sections = self.sections.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        self.push(&section_header(kind, length)).await?;
        self.push(bytes).await
    }

    async fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.body_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buf.len()));
            self.buf.extend_from_slice(now);
            bytes = later;
            if self.buf.len() == CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.file
            .write_sectors(&self.buf, self.offset)
            .await
            .map_err(|error| name(error, &self.temporary))?;
        self.offset += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    /// Completes the snapshot, makes it durable under its name, and removes older ones beyond those that are kept.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        if let Err(error) = self.complete().await {
            self.abandon().await;
            return Err(error);
        }
        let Self { disk, file, directory, temporary, id, .. } = self;
        file.close().await?;
        disk.rename(&temporary, &store::path(&directory, id.table, id.height)).await?;
        disk.sync_directory(&directory).await?;
        store::prune(&disk, &directory, id.table).await
    }

    async fn complete(&mut self) -> io::Result<()> {
        if !self.buf.is_empty() {
            self.buf.pad_to(SECTOR);
            self.flush().await?;
        }
        let header = SnapshotHeader {
            id: self.id,
            body_bytes: self.body_bytes,
            sections: self.sections,
            body_hash: Hash(*self.hasher.finalize().as_bytes()),
        };
        self.buf.clear();
        self.buf.extend_from_slice(&[0; SECTOR]);
        header.encode(&mut self.buf);
        self.offset = 0;
        self.flush().await?;
        if planted::is(Defect::SnapshotUnsynced) {
            return Ok(());
        }
        self.file.sync().await.map_err(|error| name(error, &self.temporary))
    }

    /// Gives up, and gives the space back as far as the disk lets it.
    pub(crate) async fn abandon(self) {
        // Both can fail only on a disk that has failed already; the file's name says that it is worth nothing.
        let _ = self.file.close().await;
        let _ = self.disk.remove(&self.temporary).await;
    }
}

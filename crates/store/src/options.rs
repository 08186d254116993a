//! What can be tuned, and how it becomes the library's configuration.

use lsm_tree::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    HashRatioPolicy, PinningPolicy,
};
use lsm_tree::{Cache, CompressionType, Config, DescriptorTable, SequenceNumberCounter};
use std::path::Path;
use std::sync::Arc;

/// Knobs of a store on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// Bytes of decoded blocks kept in memory. 8 MiB to some GiB; the part of
    /// the live pairs that is read often should fit.
    pub cache_bytes: u64,
    /// Bytes that a memtable takes before it is sealed and flushed. At most
    /// four exist at once (three wait, then commits do). 4 MiB to 256 MiB:
    /// smaller ones mean more compaction, larger ones more memory and more to
    /// replay from the journal after a crash.
    pub memtable_bytes: u64,
    /// Files kept open. At least 64.
    pub files_max: usize,
    /// Compress blocks of the deeper levels with LZ4: a third to a half of the
    /// space for text, at some CPU for reads that miss the cache.
    pub compress: bool,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            files_max: 256,
            compress: true,
        }
    }
}

/// Bytes of a table file: compaction rewrites whole tables, so smaller ones
/// disturb less, larger ones mean fewer files.
pub(crate) const TABLE_BYTES: u64 = 32 << 20;

impl DiskOptions {
    pub(crate) fn config(
        &self,
        path: &Path,
        seqno: SequenceNumberCounter,
        visible: SequenceNumberCounter,
    ) -> Config {
        let deep = if self.compress { CompressionType::Lz4 } else { CompressionType::None };
        Config::new(path, seqno, visible)
            .use_cache(Arc::new(Cache::with_capacity_bytes(self.cache_bytes)))
            .use_descriptor_table(Some(Arc::new(DescriptorTable::new(self.files_max))))
            .data_block_size_policy(BlockSizePolicy::all(4 << 10))
            // The upper levels are rewritten soon: not worth compressing.
            .data_block_compression_policy(CompressionPolicy::new([
                CompressionType::None,
                CompressionType::None,
                deep,
            ]))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.0))
            // Most puts of new keys look for an old pair in vain: the filters
            // answer that without touching a block.
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(
                BloomConstructionPolicy::BitsPerKey(10.0),
            )))
            .filter_block_pinning_policy(PinningPolicy::new([true, true, false]))
            .index_block_pinning_policy(PinningPolicy::new([true, true, false]))
    }
}

//! The `tidings` command.

/// Streams come and go by the thousand, each with buffers of a few sizes: jemalloc keeps that from
/// growing with time, and needs the least for an idle connection.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    tidings::cli::main()
}

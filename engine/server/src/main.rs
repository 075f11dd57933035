//! `tidegate`: see [`tidegate::cli`].

/// Small blocks from many cores: mimalloc measured better than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::main()
}

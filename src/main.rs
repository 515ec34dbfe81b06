//! The `dcams-gateway` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use dcams_gateway::{
    auth,
    cli::{self, Cli},
};

/// A body is held in blocks of 64 KiB that come and go with each request; the system's allocator
/// gives them back to the kernel every time, and pays for them again in page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: both libraries would otherwise guess, and panic at the first token.
    auth::install_crypto();
    cli::run(Cli::parse())
}

//! Standard output of a command that says something and ends. A reader that has gone, as `head` after its last line, ends the
//! command as it would end any other: quietly, with the code that a shell shows for SIGPIPE.

use std::{
    fmt::Arguments,
    io::{self, Write as _},
};

/// 128 and the number of SIGPIPE.
const READER_GONE: i32 = 141;

/// Prints a line; its colours are taken out where nobody could see them.
macro_rules! say {
    () => { $crate::cli::out::line(format_args!("")) };
    ($($text:tt)*) => { $crate::cli::out::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line as [`say!`] does, for a command that has more to do than to say something: it goes on where nobody reads.
macro_rules! mention {
    () => { $crate::cli::out::unheard(format_args!("")) };
    ($($text:tt)*) => { $crate::cli::out::unheard(format_args!($($text)*)) };
}
pub(crate) use mention;

/// What [`mention!`] does.
pub fn unheard(text: Arguments<'_>) {
    let _nobody_reads = writeln!(anstream::stdout().lock(), "{text}");
}

/// What [`say!`] does.
pub fn line(text: Arguments<'_>) {
    written(writeln!(anstream::stdout().lock(), "{text}"));
}

/// Prints bytes as they are.
pub fn bytes(piece: &[u8]) {
    let mut out = io::stdout().lock();
    written(out.write_all(piece).and_then(|()| out.flush()));
}

/// Ends the command where nothing more can be said.
fn written(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        Err(error) => {
            anstream::eprintln!("error: cannot write to standard output: {error}");
            std::process::exit(1)
        }
    }
}

//! The public API under `/api/v1`: what the command line, the page and scripts see.

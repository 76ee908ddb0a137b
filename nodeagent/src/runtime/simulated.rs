//! A runtime without I/O.

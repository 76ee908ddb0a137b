//! The API server from outside: its layers through a loopback, and the real kubectl over its socket.

mod client;
mod discovery;
mod kubectl;
mod matrix;
mod objects;
mod watch;
mod writes;

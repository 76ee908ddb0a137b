//! The API server from outside: its layers through a loopback, and the real kubectl over its socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod aggregation;
mod audit;
mod authn;
mod authorization;
mod client;
mod custom_resources;
mod discovery;
mod extensions;
mod flow_control;
mod kubectl;
mod matrix;
mod objects;
mod operation;
mod outside;
mod ownership;
mod policies;
mod protobuf;
mod proxy;
mod retired;
mod services;
mod watch;
mod webhooks;
mod writes;

//! `exec`: runs a command in a container; the connection becomes a stream to the agent of its node.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, STREAMS, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct Exec;

impl Subresource for Exec {
    const NAME: &'static str = "exec";
    const ACTION: Action = Action::Connect { act: answer, params: STREAMS };
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::container(call, "exec", &["command", "stdin", "stdout", "stderr", "tty"]).boxed()
}

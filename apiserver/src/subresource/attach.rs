//! `attach`: joins the streams of a container that runs.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, STREAMS, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct Attach;

impl Subresource for Attach {
    const NAME: &'static str = "attach";
    const ACTION: Action = Action::Connect { act: answer, params: STREAMS };
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::container(call, "attach", &["stdin", "stdout", "stderr", "tty"]).boxed()
}

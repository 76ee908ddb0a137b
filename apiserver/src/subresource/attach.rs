//! `attach`: joins the streams of a container that runs.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct Attach;

impl Subresource for Attach {
    const NAME: &'static str = "attach";
    const ACTION: Action = Action::Do(answer);
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::container(call, "attach", &["stdin", "stdout", "stderr", "tty"]).boxed()
}

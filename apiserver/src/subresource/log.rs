//! `log`: what a container wrote, from the agent of its node.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct Log;

impl Subresource for Log {
    const NAME: &'static str = "log";
    const ACTION: Action = Action::Do(answer);
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::container(
        call,
        "containerLogs",
        &[
            "follow",
            "previous",
            "timestamps",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ],
    )
    .boxed()
}

//! What the expressions of policies and match conditions may refer to.

use std::sync::LazyLock;

use crate::cel::{AUTHORIZER, Environment, RESOURCE_CHECK, Type};
use crate::kinds;
use crate::schema;

/// Which variables there are besides `object`, `oldObject` and `request`.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The type of `params`, if there are any.
    pub params: Option<Type>,
    pub authorizer: bool,
    pub namespace: bool,
    /// `Object{}` and `JSONPatch{}` can be made.
    pub mutations: bool,
}

impl Scope {
    /// The environment; `object` has the type of `object` and `oldObject`.
    pub fn environment(self, object: Type) -> Environment {
        let mut environment = Environment::new()
            .variable("object", object.clone())
            .variable("oldObject", object)
            .variable("request", REQUEST.clone());
        if let Some(params) = self.params {
            environment = environment.variable("params", params);
        }
        if self.authorizer {
            environment = environment
                .variable("authorizer", AUTHORIZER)
                .variable("authorizer.requestResource", RESOURCE_CHECK);
        }
        if self.namespace {
            environment = environment.variable("namespaceObject", NAMESPACE.clone());
        }
        if self.mutations { environment.with_mutations() } else { environment }
    }
}

static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let schema = kinds::find_kind("", "v1", "Namespace").and_then(|kind| schema::builtin(kind));
    schema.and_then(|schema| Type::of_resource(&schema, "kubernetes.Namespace")).unwrap_or(Type::Dyn)
});

static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let fields = |names: &[&str]| -> Vec<(String, Type)> {
        names.iter().map(|name| ((*name).to_owned(), Type::String)).collect()
    };
    let kind = Type::object("kubernetes.GroupVersionKind", fields(&["group", "version", "kind"]));
    let resource = Type::object("kubernetes.GroupVersionResource", fields(&["group", "version", "resource"]));
    let mut user = fields(&["username", "uid"]);
    user.push(("groups".to_owned(), Type::list(Type::String)));
    user.push(("extra".to_owned(), Type::map(Type::String, Type::list(Type::String))));
    let mut request = fields(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    request.extend([
        ("kind".to_owned(), kind.clone()),
        ("requestKind".to_owned(), kind),
        ("resource".to_owned(), resource.clone()),
        ("requestResource".to_owned(), resource),
        ("userInfo".to_owned(), Type::object("kubernetes.UserInfo", user)),
        ("dryRun".to_owned(), Type::Bool),
        ("options".to_owned(), Type::Dyn),
    ]);
    Type::object("kubernetes.AdmissionRequest", request)
});

//! From the claims of a verified token to a user: rules that must hold, and where each part of the user is.

use std::sync::LazyLock;

use api_types::cel::{Activation, Budget, Environment, Type, Value as Cel};
use api_types::policy::Expression;
use serde_json::{Value, json};

use crate::UserInfo;
use crate::authn::authenticated;
use crate::authn::service_account::CREDENTIAL_ID;

/// What expressions about a token see.
pub(crate) static TOKEN: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("claims", Type::map(Type::String, Type::Dyn)));

/// What expressions about the user that was made of it see.
pub(crate) static USER: LazyLock<Environment> = LazyLock::new(|| {
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", Type::list(Type::String)),
        ("extra", Type::map(Type::String, Type::list(Type::String))),
    ];
    let fields = fields.map(|(name, ty)| (name.to_owned(), ty));
    Environment::new().variable("user", Type::object("kubernetes.UserInfo", fields))
});

/// How an issuer's claims are read.
pub(crate) struct Claims {
    pub(crate) rules: Vec<Rule>,
    pub(crate) username: Mapping,
    pub(crate) groups: Option<Mapping>,
    pub(crate) uid: Option<Mapping>,
    pub(crate) extra: Vec<(String, Expression)>,
    /// Expression about the user, and what to say when it is false.
    pub(crate) user_rules: Vec<(Expression, String)>,
}

/// What must hold of the claims.
pub(crate) enum Rule {
    Equal {
        claim: String,
        value: String,
    },
    /// With what to say when it is false.
    Holds(Expression, String),
}

/// Where a part of the user is.
pub(crate) enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Expression),
}

impl Claims {
    /// The user, or why these claims make none.
    pub(crate) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let activation = Activation::new().with("claims", Cel::json(claims));
        let mut budget = Budget::for_rules();
        self.rules.iter().try_for_each(|rule| check(rule, claims, &activation, &mut budget))?;
        let name = self.username(claims, &activation, &mut budget)?;
        let groups = match &self.groups {
            None => Vec::new(),
            Some(mapping) => groups(mapping, claims, &activation, &mut budget)?,
        };
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut user = authenticated(name, &groups);
        if let Some(mapping) = &self.uid {
            user.uid = text(&found(mapping, claims, &activation, &mut budget)?, "uid")?;
        }
        for (key, expression) in &self.extra {
            let value = evaluate(expression, &activation, &mut budget)?;
            let values = texts(&value, &format!("extra claim {key:?}"))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = claims["jti"].as_str() {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        self.check_user(&user, &mut budget)?;
        Ok(user)
    }

    fn username(
        &self,
        claims: &Value,
        activation: &Activation<'_>,
        budget: &mut Budget,
    ) -> Result<String, String> {
        if let Mapping::Claim { claim, .. } = &self.username {
            if claims[claim].as_str().is_none_or(str::is_empty) {
                return Err(format!("oidc: claim {claim:?} not present"));
            }
            if claim == "email" && claims.get("email_verified").is_some_and(|verified| *verified != true) {
                return Err("oidc: email not verified".to_owned());
            }
        }
        let name = text(&found(&self.username, claims, activation, budget)?, "username")?;
        match name.is_empty() {
            true => Err("oidc: the user's name is empty".to_owned()),
            false => Ok(name),
        }
    }

    fn check_user(&self, user: &UserInfo, budget: &mut Budget) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let shown =
            json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        let activation = Activation::new().with("user", Cel::json(&shown));
        self.user_rules.iter().try_for_each(|(rule, message)| hold(rule, message, &activation, budget))
    }
}

fn check(
    rule: &Rule,
    claims: &Value,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<(), String> {
    match rule {
        Rule::Equal { claim, value } if claims[claim] == value.as_str() => Ok(()),
        Rule::Equal { claim, .. } => Err(format!("oidc: required claim {claim} value does not match")),
        Rule::Holds(expression, message) => hold(expression, message, activation, budget),
    }
}

fn hold(
    expression: &Expression,
    message: &str,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<(), String> {
    match evaluate(expression, activation, budget)? {
        Value::Bool(true) => Ok(()),
        _ if message.is_empty() => Err(format!("oidc: validation expression '{}' failed", expression.text)),
        _ => Err(format!("oidc: validation expression '{}' failed: {message}", expression.text)),
    }
}

fn evaluate(
    expression: &Expression,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<Value, String> {
    let value = expression.eval(activation, budget).map_err(|why| format!("oidc: {}", why.into_text()))?;
    value.to_json().ok_or_else(|| format!("oidc: '{}' gives no value of JSON", expression.text))
}

/// The value of a claim with its prefix, or of an expression; null if the claim is not there.
fn found(
    mapping: &Mapping,
    claims: &Value,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<Value, String> {
    Ok(match mapping {
        Mapping::Expression(expression) => evaluate(expression, activation, budget)?,
        Mapping::Claim { claim, prefix } => match &claims[claim] {
            Value::String(one) => json!(format!("{prefix}{one}")),
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(|one| json!(format!("{prefix}{one}"))).collect()
            }
            _ => Value::Null,
        },
    })
}

fn groups(
    mapping: &Mapping,
    claims: &Value,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<Vec<String>, String> {
    texts(&found(mapping, claims, activation, budget)?, "groups")
}

fn text(value: &Value, what: &str) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("oidc: {what} must be a string"))
}

/// One text, a list of them, or nothing; empty ones do not count.
fn texts(value: &Value, what: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("oidc: {what} must be a string or a list of strings");
    let all: Vec<String> = match value {
        Value::Null => Vec::new(),
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => {
            let texts = list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong));
            texts.collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    Ok(all.into_iter().filter(|one| !one.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Expression {
        let expression = Expression::compile(&TOKEN, text, &[]);
        assert_eq!(expression.error(), None, "{text}");
        expression
    }

    fn claims() -> Claims {
        Claims {
            rules: vec![Rule::Holds(token("claims.hd == 'example.com'"), "the domain is wrong".to_owned())],
            username: Mapping::Expression(token("'x:' + claims.sub")),
            groups: Some(Mapping::Expression(token("claims.roles.split(',')"))),
            uid: Some(Mapping::Claim { claim: "id".to_owned(), prefix: String::new() }),
            extra: vec![("example.com/tenant".to_owned(), token("claims.?tenant.orValue('')"))],
            user_rules: vec![(
                Expression::compile(&USER, "!user.username.startsWith('x:system:')", &[Type::Bool]),
                "system users are not ours".to_owned(),
            )],
        }
    }

    fn given(change: Value) -> Value {
        let mut given =
            json!({"hd": "example.com", "sub": "jane", "roles": "a,b", "id": "7", "tenant": "t1"});
        given.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        given
    }

    #[test]
    fn expressions_make_each_part_of_the_user() {
        let user = claims().user(&given(json!({}))).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane", "7"));
        assert_eq!(user.groups[..2], ["a", "b"]);
        assert_eq!(user.extra["example.com/tenant"], ["t1"]);
        assert!(claims().user(&given(json!({"tenant": ""}))).unwrap().extra.is_empty());
    }

    #[test]
    fn a_rule_that_does_not_hold_refuses_with_its_message() {
        let refused = |change: Value| claims().user(&given(change)).unwrap_err();
        assert!(refused(json!({"hd": "else.com"})).ends_with("the domain is wrong"));
        assert!(refused(json!({"sub": "system:admin"})).ends_with("system users are not ours"));
        assert!(refused(json!({"sub": 7})).contains("no such overload"));
    }
}

//! `/docs`: the description as a page, with fields, types and examples, and nothing from elsewhere.

use serde_json::{Map, Value};

const STYLE: &str = "
:root{color-scheme:light dark;--page:#f6f7f7;--card:#fff;--text:#17211f;--soft:#55625f;--line:#dfe5e3;--accent:#0f766e}
@media (prefers-color-scheme:dark){:root{--page:#101615;--card:#182120;--text:#e4ecea;--soft:#9fb0ac;--line:#2a3634;--accent:#2dd4bf}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem;background:var(--page);color:var(--text)}
a{color:var(--accent)}h2{margin:2rem 0 .5rem}h3{margin:1rem 0 .25rem;font-size:1rem}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:.5rem 0;padding:.5rem .8rem}
summary{cursor:pointer;overflow-wrap:anywhere}summary span,.note{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:.875rem}
td,th{border-bottom:1px solid var(--line);padding:.35rem .5rem .35rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500}td:first-child{width:28%}td:nth-child(2){width:24%}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:.5rem .7rem;overflow-x:auto;font-size:.8125rem;
white-space:pre-wrap;overflow-wrap:anywhere}
";

/// The page of a description.
pub(super) fn page(document: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>\
         <meta name=color-scheme content='light dark'><title>Tidegate: API</title><style>{STYLE}</style>\
         <h1>Tidegate: API</h1><p>{} As a file: <a href=/openapi.json>openapi.json</a>. The same events and analytics over gRPC: \
         <code>analytics.v1</code>, with reflection. <a href=/>Live page</a></p><h2>Routes</h2>",
        escape(text(&document["info"], "description"))
    );
    for (path, methods) in fields(&document["paths"]) {
        for (method, operation) in fields(methods) {
            operation_section(&mut out, path, method, operation, document);
        }
    }
    out.push_str("<h2>Forms</h2><p class=note>Bodies and answers, and what is in them.</p>");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        out.push_str(&format!("<details id='{0}'><summary><code>{0}</code></summary>", escape(name)));
        out.push_str(&format!("<p class=note>{}</p>", escape(text(schema, "description"))));
        field_table(&mut out, schema);
        out.push_str("</details>");
    }
    out.push_str("<script>addEventListener('hashchange',o);function o(){const d=document.getElementById(location.hash.slice(1));if(d)d.open=true}o()</script></html>");
    out
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

fn operation_section(out: &mut String, path: &str, method: &str, operation: &Value, document: &Value) {
    out.push_str(&format!(
        "<details><summary><code><b>{}</b> {}</code> <span>{}</span></summary><p class=note>Operation <code>{}</code></p>",
        method.to_uppercase(),
        escape(path),
        escape(text(operation, "summary")),
        escape(text(operation, "operationId"))
    ));
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        out.push_str("<h3>Parameters</h3><table><tr><th>Name<th>Type<th>Meaning");
        for parameter in parameters.iter().map(|parameter| resolved(parameter, document)) {
            let is_required = parameter["required"] == true;
            let place = format!("{}{}", text(parameter, "in"), if is_required { ", required" } else { "" });
            out.push_str(&row(
                text(parameter, "name"),
                &kind(&parameter["schema"]),
                &format!("{} ({place})", escape(text(parameter, "description"))),
            ));
        }
        out.push_str("</table>");
    }
    let body = &operation["requestBody"];
    if body.is_object() {
        out.push_str(&format!("<h3>Body</h3><p class=note>{}</p>", escape(text(body, "description"))));
        content(out, &body["content"]["application/json"]);
    }
    for (status, answer) in fields(&operation["responses"]) {
        out.push_str(&format!(
            "<h3>Answer {}</h3><p class=note>{}</p>",
            escape(status),
            escape(text(answer, "description"))
        ));
        content(out, &answer["content"]["application/json"]);
    }
    out.push_str("</details>");
}

fn resolved<'a>(value: &'a Value, document: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| document.pointer(target.trim_start_matches('#')));
    target.unwrap_or(value)
}

fn content(out: &mut String, content: &Value) {
    let schema = if content["schema"].is_object() { &content["schema"] } else { &content["x-itemSchema"] };
    if schema.is_object() {
        out.push_str(&format!("<p>{}</p>", kind(schema)));
    }
    let example = &content["example"];
    if !example.is_null() {
        let example = serde_json::to_string_pretty(example).unwrap_or_default();
        out.push_str(&format!("<pre>{}</pre>", escape(&example)));
    }
}

fn field_table(out: &mut String, schema: &Value) {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    if schema["properties"].as_object().is_none_or(Map::is_empty) {
        return;
    }
    out.push_str("<table><tr><th>Field<th>Type<th>Meaning");
    for (name, field) in fields(&schema["properties"]) {
        let name = if required(name) { format!("{name} *") } else { name.clone() };
        out.push_str(&row(&name, &kind(field), &escape(text(field, "description"))));
    }
    out.push_str("</table><p class=note>* required</p>");
}

/// A row; the type and the meaning are markup already.
fn row(name: &str, kind: &str, meaning: &str) -> String {
    format!("<tr><td><code>{}</code><td>{kind}<td>{meaning}", escape(name))
}

/// A type in a few words, with a link to what is described by itself.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = escape(target.rsplit('/').next().unwrap_or_default());
        return format!("<a href='#{name}'>{name}</a>");
    }
    let list = |schemas: &[Value]| {
        let mut kinds: Vec<String> = schemas.iter().map(kind).filter(|kind| !kind.is_empty()).collect();
        kinds.dedup();
        kinds.join(" or ")
    };
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| escape(value.as_str().unwrap_or(&value.to_string()))).collect();
        return values.join(", ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&schema["items"])),
        Value::String(name) if name == "object" && schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        Value::String(name) => match text(schema, "format") {
            "" => escape(name),
            format => format!("{} ({})", escape(name), escape(format)),
        },
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.join(" or ")
        }
        _ => {
            schema["anyOf"].as_array().or(schema["allOf"].as_array()).map(|all| list(all)).unwrap_or_default()
        }
    }
}

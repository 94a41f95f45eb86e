//! Wrong arguments of operations: the status that each is answered with.

use crate::model::{SMALL, caller, endpoint, intrinsic, request};
use standin_access::endpoint::Endpoint;
use standin_cimxml::CimXml;

async fn ask(server: &CimXml, user: &str, operation: &str, arguments: &str) -> String {
    let mut asked = request(operation, &intrinsic(operation, arguments));
    asked.caller = caller(user);
    let response = server.call(asked).await;
    assert_eq!(response.status, 200);
    String::from_utf8(response.body.to_vec()).unwrap()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

/// The code of the error, or 0.
async fn code(server: &CimXml, operation: &str, arguments: &str) -> u32 {
    let answer = ask(server, "admin", operation, arguments).await;
    between(&answer, "<ERROR CODE=\"", "\"").map_or(0, |code| code.parse().unwrap())
}

fn class(name: &str) -> String {
    format!(r#"<IPARAMVALUE NAME="ClassName"><CLASSNAME NAME="{name}"/></IPARAMVALUE>"#)
}

fn text(name: &str, value: &str) -> String {
    format!(r#"<IPARAMVALUE NAME="{name}"><VALUE>{value}</VALUE></IPARAMVALUE>"#)
}

fn instance_name(class: &str, keys: &str) -> String {
    format!(
        r#"<IPARAMVALUE NAME="InstanceName"><INSTANCENAME CLASSNAME="{class}">{keys}</INSTANCENAME></IPARAMVALUE>"#
    )
}

fn key(name: &str, value: &str) -> String {
    format!(r#"<KEYBINDING NAME="{name}"><KEYVALUE VALUETYPE="string">{value}</KEYVALUE></KEYBINDING>"#)
}

#[tokio::test]
async fn wrong_arguments_are_told_apart() {
    let server = endpoint(SMALL);
    let base = class("TST_Base");
    let one = instance_name("TST_Base", &key("Id", "one é"));
    for (operation, arguments, wanted) in [
        ("GetInstance", one.clone(), 0),
        ("GetInstance", instance_name("TST_Base", &key("Id", "two")), 6),
        ("GetInstance", instance_name("No", &key("Id", "two")), 5),
        ("GetInstance", instance_name("TST_Base", &key("No", "two")), 4),
        ("GetInstance", String::new(), 4),
        ("GetInstance", one.clone() + &text("Unknown", "1"), 4),
        ("GetInstance", one.clone() + &one, 4),
        ("GetInstance", one.clone() + &text("IncludeClassOrigin", "perhaps"), 4),
        ("GetInstance", one.clone() + &text("PropertyList", "Id"), 4),
        ("GetInstance", r#"<IPARAMVALUE NAME="InstanceName"><CLASSNAME NAME="TST_Base"/></IPARAMVALUE>"#.into(), 4),
        ("GetInstance", r#"<IPARAMVALUE NAME="InstanceName"><INSTANCENAME CLASSNAME="TST_Base"><KEYBINDING NAME="Id"><KEYVALUE VALUETYPE="numeric">x</KEYVALUE></KEYBINDING></INSTANCENAME></IPARAMVALUE>"#.into(), 4),
        ("EnumerateInstances", class("No"), 5),
        ("EnumerateInstances", class("No") + &text("DeepInheritance", "false"), 5),
        ("EnumerateClasses", class("No"), 5),
        ("GetClass", class("No"), 6),
        ("GetQualifier", text("QualifierName", "No"), 6),
        ("ExecQuery", text("QueryLanguage", "SQL") + &text("Query", "SELECT * FROM TST_Base"), 14),
        ("ExecQuery", text("QueryLanguage", "WQL") + &text("Query", "SELECT * FRM TST_Base"), 15),
        ("CreateClass", r#"<IPARAMVALUE NAME="NewClass"><CLASS NAME="X"/></IPARAMVALUE>"#.into(), 7),
        ("ModifyClass", r#"<IPARAMVALUE NAME="ModifiedClass"><CLASS NAME="X"/></IPARAMVALUE>"#.into(), 7),
        ("DeleteClass", base.clone(), 7),
        ("SetQualifier", String::new(), 7),
        ("DeleteQualifier", String::new(), 7),
        ("EnumerationCount", text("EnumerationContext", "x"), 7),
        ("Nonsense", String::new(), 7),
        ("OpenEnumerateInstances", base.clone() + &text("OperationTimeout", "0"), 22),
        ("OpenEnumerateInstances", base.clone() + &text("OperationTimeout", "100000"), 22),
        ("OpenEnumerateInstances", base.clone() + &text("ContinueOnError", "true"), 26),
        ("OpenEnumerateInstances", base.clone() + &text("MaxObjectCount", "-1"), 4),
        ("OpenEnumerateInstances", base.clone() + &text("FilterQuery", "Size = 1"), 4),
        ("OpenEnumerateInstances", base.clone() + &text("FilterQuery", "Size = 1") + &text("FilterQueryLanguage", "WQL"), 14),
        ("OpenEnumerateInstances", base.clone() + &text("FilterQuery", "Size =") + &text("FilterQueryLanguage", "DMTF:FQL"), 15),
        ("OpenEnumerateInstances", base.clone() + &text("FilterQuery", "No = 1") + &text("FilterQueryLanguage", "DMTF:FQL"), 12),
        ("PullInstancesWithPath", text("EnumerationContext", "x") + &text("MaxObjectCount", "1"), 21),
        ("PullInstancePaths", text("EnumerationContext", "x"), 4),
        ("CloseEnumeration", text("EnumerationContext", "x"), 21),
        ("Associators", r#"<IPARAMVALUE NAME="ObjectName"><CLASSNAME NAME="No"/></IPARAMVALUE>"#.into(), 4),
    ] {
        assert_eq!(code(&server, operation, &arguments).await, wanted, "{operation} {arguments}");
    }
}

#[tokio::test]
async fn another_namespace_is_no_namespace() {
    let mut asked =
        request("EnumerateClassNames", &intrinsic("EnumerateClassNames", "").replace("\"test\"", "\"no\""));
    asked.headers.insert("cimobject", "root/no".parse().unwrap());
    let response = endpoint(SMALL).call(asked).await;
    assert!(String::from_utf8_lossy(&response.body).contains("<ERROR CODE=\"3\""));
}

#[tokio::test]
async fn an_enumeration_of_another_user_is_none() {
    let server = endpoint(SMALL);
    let opened = ask(&server, "ann", "OpenEnumerateInstances", &class("TST_Base")).await;
    assert!(
        opened.contains(r#"<IRETURNVALUE></IRETURNVALUE><PARAMVALUE NAME="EnumerationContext""#),
        "{opened}"
    );
    assert!(
        opened.contains(r#"<PARAMVALUE NAME="EndOfSequence" PARAMTYPE="boolean"><VALUE>FALSE</VALUE>"#),
        "{opened}"
    );
    let context = between(&opened, "PARAMTYPE=\"string\"><VALUE>", "<").unwrap();
    let pull = text("EnumerationContext", context) + &text("MaxObjectCount", "10");
    assert!(ask(&server, "bob", "PullInstancesWithPath", &pull).await.contains("<ERROR CODE=\"21\""));
    assert!(ask(&server, "ann", "PullInstancePaths", &pull).await.contains("<ERROR CODE=\"21\""));
    let pulled = ask(&server, "ann", "PullInstancesWithPath", &pull).await;
    assert!(
        pulled.contains("<VALUE.INSTANCEWITHPATH><INSTANCEPATH><NAMESPACEPATH><HOST>testhost</HOST>"),
        "{pulled}"
    );
    assert!(pulled.contains("<VALUE>TRUE</VALUE>"), "{pulled}");
    assert!(ask(&server, "ann", "PullInstancesWithPath", &pull).await.contains("<ERROR CODE=\"21\""));
}

//! Another real client: `wbemcli` of the SBLIM project, which reads XML in its own way.

use crate::pywbem;
use std::process::Command;

fn wbemcli(arguments: &[String]) -> String {
    let ran = Command::new("wbemcli").args(arguments).output();
    let ran = ran
        .unwrap_or_else(|error| panic!("wbemcli does not run ({error}); install the package sblim-wbemcli"));
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn its_commands_work() {
    let address = pywbem::serve().await;
    let space = address.replace("http://", "http://ann:x@") + "/root/test";
    let thing = format!("{space}:TST_Thing.Id=\"thing\"");
    let new = format!("{space}:TST_Other.Id=\"ci\",No=9,On=FALSE");
    let commands = [
        (
            vec!["ein".into(), format!("{space}:TST_Base")],
            vec!["TST_Thing.Id=\"thing\"", "TST_Special.Id=\"special\""],
        ),
        (
            vec!["ei".into(), format!("{space}:TST_Other")],
            vec!["Id=\"one\",No=1,On=true,Note=\"first\"", "No=3,On=false"],
        ),
        (vec!["ecn".into(), space.clone()], vec!["TST_SpecialLink"]),
        (vec!["gc".into(), format!("{space}:TST_Other")], vec!["TST_Other Id=,No=,On=,Note="]),
        (vec!["gi".into(), thing.clone()], vec!["Label=\"a\nb\"", "Flag=true", "Low=-7", "Names=\"x\""]),
        (vec!["ain".into(), thing.clone()], vec!["testhost/root/test:TST_Other.Id=\"one\",No=1,On=true"]),
        (vec!["ai".into(), "-ac".into(), "TST_Link".into(), thing.clone()], vec!["Note=\"first\""]),
        (vec!["rin".into(), thing.clone()], vec!["TST_Link.Parent="]),
        (vec!["ri".into(), thing.clone()], vec!["Weight=3"]),
        // Not of a method with a null among its out parameters: wbemcli 1.6.3 ends in a segmentation fault then.
        (
            vec!["cm".into(), format!("{space}:TST_Base"), "Count".into()],
            vec!["Count: 4096, Class (string): TST_Base"],
        ),
        (vec!["mi".into(), thing.clone(), "Label=\"new\"".into()], vec![]),
        (vec!["gi".into(), thing.clone()], vec!["Label=\"new\""]),
        (
            vec!["ci".into(), new.clone(), "Id=\"ci\",No=9,On=FALSE,Note=\"x\"".into()],
            vec!["TST_Other.Id=\"ci\",No=9,On=false"],
        ),
        (vec!["di".into(), new.clone()], vec![]),
        (vec!["gi".into(), new], vec!["CIM_ERR_NOT_FOUND"]),
    ];
    for (arguments, wanted) in commands {
        let out = wbemcli(&arguments);
        assert!(wanted.contains(&"CIM_ERR_NOT_FOUND") || !out.contains("Exception"), "{arguments:?}: {out}");
        for part in wanted {
            assert!(out.contains(part), "{arguments:?}: {part} is not in {out}");
        }
    }
}

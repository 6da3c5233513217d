//! The example configuration file, generated from the table of settings.

use std::fmt::Write as _;

use super::{Sources, defaults, settings::SETTINGS};

/// `config.toml` with every key, its one-sentence documentation, its variable and its default, all commented out.
pub fn example() -> String {
    // Without an environment the defaults are those of a system service.
    let defaults = defaults(
        &Sources {
            root: true,
            ..Sources::default()
        },
        &mut Vec::new(),
    );
    let mut text = String::from(
        "# Configuration of boxd. Flags win over BOXD_* variables, which win over this file.\n\
         # Every key is shown with its default, or with an example where there is none.\n\
         # `boxd doctor --print-config` shows what is in force and where it came from.\n",
    );
    let mut current = "";
    for setting in SETTINGS.iter().filter(|setting| setting.in_file) {
        let Some((section, name)) = setting.key.split_once('.') else {
            continue;
        };
        if section != current {
            current = section;
            let _ = write!(text, "\n[{section}]\n");
        }
        let value = if setting.example.is_empty() {
            (setting.show)(&defaults).unwrap_or_default()
        } else {
            setting.example.to_owned()
        };
        let names: Vec<String> = setting
            .variable
            .map(str::to_owned)
            .into_iter()
            .chain(setting.flag.map(|flag| format!("--{flag}")))
            .collect();
        let _ = write!(text, "\n# {}\n", setting.doc);
        if !names.is_empty() {
            let _ = writeln!(text, "# Also {}.", names.join(" and "));
        }
        let _ = writeln!(text, "# {name} = {value}");
    }
    text
}

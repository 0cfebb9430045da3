//! The command that an image's configuration brings, in the engine's words.

use ::images::config::ImageConfig;
use model::service::ImageCommand;

/// Nothing for a bare root file system. A stop signal that means nothing is as good as none, as it is to Docker.
pub fn command_of(config: &ImageConfig) -> Option<ImageCommand> {
    let command = ImageCommand {
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_folder: config.working_dir.clone(),
        stop_signal: config.stop_signal.parse().unwrap_or_default(),
    };
    (command != ImageCommand::default()).then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_becomes_a_command_and_none_becomes_none() {
        assert_eq!(command_of(&ImageConfig::default()), None);
        let config = ImageConfig { cmd: vec!["x".into()], stop_signal: "SIGNOTHING".into(), ..ImageConfig::default() };
        let command = command_of(&config).expect("there is one");
        assert_eq!((command.command.join(" ").as_str(), command.stop_signal.number()), ("x", 15));
    }
}

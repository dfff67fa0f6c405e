"""The command line: `fcs serve`, `certify`, `models`, `bench`; one file a command."""

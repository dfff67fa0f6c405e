"""The command line: `fcs serve`, `certify`, `verify`, `models`, `bench`; one file a command."""

"""The command `silc`: one module for each subcommand, and how a job is started."""

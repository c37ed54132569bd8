"""What an evaluation leaves behind: tables, report.html and a sheet of held-out images."""

"""What is measured of newproject, commit by commit."""

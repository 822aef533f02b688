"""Who there is to look at: subjects from files, downloads or a synthetic brain, and maps back to files."""

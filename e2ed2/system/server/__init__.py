"""What servers of pages share: what every request passes, forms, files that are served as they are, a port."""

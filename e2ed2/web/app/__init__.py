"""The server of `e2ed2 watch`: who may come in (door.py), routes, pages."""

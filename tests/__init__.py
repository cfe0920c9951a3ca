"""Tests, mirrored on the tree; a package so that no other one of that name in site-packages is found first."""

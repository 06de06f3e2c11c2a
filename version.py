"""The version of certifier."""

VERSION = "0.1.0"

"""A small complete world that runs offline: python -m demo."""

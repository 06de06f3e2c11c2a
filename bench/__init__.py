"""The benchmark of certifier and its peers: ``python -m bench --help``. Linux only: CPU and memory come from /proc.

One process leads (``__main__``). It starts an origin (``origin``), one proxy at a time (``running``, ``peers``) and
load clients (``crew``, ``client``), with the proxy on cores of its own (``cores``); measures (``rows``, ``growth``,
``mixed``, ``sharing``, ``price``) what the proxy's process tree uses (``accounting``), compared with what the
cryptography alone would use (``floor``); and reports (``report``, ``plot``).
"""

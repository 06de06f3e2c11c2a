"""The benchmark of certifier and its peers: ``python -m bench --help``. Linux only: CPU and memory come from /proc.

One process leads (``__main__``). It starts an origin (``origin``), one proxy at a time (``running``, ``peers``) and
load clients (``crew``, ``client``), each on cores of its own (``cores``); measures (``rows``, ``growth``, ``mixed``,
``sharing``, ``price``) what the proxy's process tree used (``accounting``) beside what cryptography alone would have
(``floor``); and tells (``report``, ``plot``).
"""

"""What people look at: figures and pages."""

import logging

# where its own folder cannot be written matplotlib takes a temporary one, and has two lines to say about it
logging.getLogger("matplotlib").addFilter(lambda record: record.funcName != "_get_config_or_cache_dir")

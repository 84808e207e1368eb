"""upcycle's schedules in other people's training loops: one module per framework, none of which the rest imports."""

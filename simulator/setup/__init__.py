"""What a run is: its options, declared once, settled and checked; the machine looked up; misses and prefetching."""

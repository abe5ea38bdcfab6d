"""Where programs run: devices, several processes, interrupts, signs of life, progress."""

"""What measures the program itself."""

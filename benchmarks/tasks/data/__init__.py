"""What the tasks read: pictures from files, generated birds, small networks."""

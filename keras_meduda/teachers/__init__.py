"""Teachers: foundation models and others that run in their own process, without TensorFlow."""

"""Teachers: foundation models and others that prompt, segment and hand over files.

They run in a process of their own, without TensorFlow, and know nothing of the student.
"""

"""OpenCV, or a message that says how to get it."""

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Its usual build needs graphics libraries: "
        "`apt-get install libgl1 libglib2.0-0`. On a server take the build without them: "
        "`pip uninstall opencv-python && pip install opencv-python-headless`."
    ) from error

__all__ = ["cv2"]

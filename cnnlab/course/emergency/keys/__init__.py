"""The records of the patients, one file each; `cnnlab.course.emergency.records` reads them."""

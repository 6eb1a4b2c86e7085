"""What everything stands on: errors, text, units, files, plug-ins. Imports nothing of lrcsim outside itself."""

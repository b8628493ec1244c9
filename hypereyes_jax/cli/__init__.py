"""The commands, one thin file each: settings, a call, what is printed. Only this room imports lazily."""

# part of hidrop
"""The methods that HiDrop is compared with, one file each."""

package sidecar

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// identity tells a file from every other one: the number of its inode, which is given
// again, and the time when that was made.
func identity(file string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", &fs.PathError{Op: "statx", Path: file, Err: err}
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		return "", fmt.Errorf("the file system of %s does not tell when a file was made, so that a new one could not be told from it", file)
	}
	return fmt.Sprintf("%d@%d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}

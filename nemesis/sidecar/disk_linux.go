package sidecar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-mq/faultline/nemesis/sidecar/ext4"
)

// The calls that golang.org/x/sys does not name, as in linux/fs.h.
const (
	fsShutdown = 0x8004587d // FS_IOC_SHUTDOWN
	fsFreeze   = 0xc0045877 // FIFREEZE
	fsThaw     = 0xc0045878 // FITHAW

	shutdownSynced = 0 // sync everything, then fail
	shutdownAtOnce = 2 // drop what is not on the disk, the log of the file system included
)

// releaseTimeout bounds the wait for a dead node's mount to go.
const releaseTimeout = 20 * time.Second

const releaseRetry = 5 * time.Millisecond

// disk is the node's data disk. The zero value is one that is not attached.
type disk struct {
	stubbed bool
	dir     string // DiskDir, but for tests
	loop    *os.File
	number  string // of the device: major:minor
	size    int64
	groups  throttle
}

func (d *disk) image() string  { return filepath.Join(d.dir, "image") }
func (d *disk) copied() string { return filepath.Join(d.dir, "copy") }
func (d *disk) top() string    { return filepath.Join(d.dir, "mnt") }

func (d *disk) do(req DiskRequest, resp *DiskResponse) (err error) {
	if req.Op != DiskAttach && d.loop == nil {
		return errors.New("no disk is attached")
	}
	switch req.Op {
	case DiskAttach:
		resp.Device, err = d.attach(req.Size)
	case DiskCanary:
		err = d.writeCanary(req.Name, req.Sync)
	case DiskHas:
		resp.Found, err = d.hasCanary(req.Name)
	case DiskCut:
		err = d.shutDown(shutdownAtOnce)
		if err == nil {
			err = d.remount(nil)
		}
	case DiskBreak:
		err = d.shutDown(shutdownSynced)
	case DiskRemount:
		err = d.remount(nil)
	case DiskProbe:
		resp.Took, resp.Errno, err = d.probe(req.Containers)
	case DiskFill:
		err = d.fill()
	case DiskFree:
		err = ignoreMissing(os.Remove(d.file("fill")))
	case DiskWipe:
		err = d.wipe()
	case DiskFiles:
		resp.Files, err = d.files()
	case DiskFlip:
		err = d.flip(req.Name, req.Offset, req.Bit)
	case DiskTrim:
		err = d.trim(req.Name, req.Size)
	case DiskDigest:
		resp.Digest, err = d.digest(req.Name, req.Size)
	case DiskCopy:
		err = d.copy()
	case DiskPutBack:
		err = d.putBack()
	case DiskThrottle:
		if !d.stubbed {
			err = d.groups.limit(d.number, req.Containers, req.Rate)
		}
	default:
		err = errors.New("unknown command")
	}
	return err
}

// attach makes the disk and returns its device, as the host names it.
func (d *disk) attach(size int64) (string, error) {
	if d.loop != nil {
		return "", errors.New("a disk is attached already")
	}
	if err := os.MkdirAll(d.top(), 0o755); err != nil {
		return "", err
	}
	d.size = size
	if err := d.format(); err != nil {
		return "", err
	}
	if err := d.bind(); err != nil {
		return "", err
	}
	return d.loop.Name(), d.mount()
}

// format makes the disk's file anew.
func (d *disk) format() error {
	return d.rewrite(func(f *os.File) error { return ext4.Format(f, d.size) })
}

// rewrite lets fill write the disk's file, which is all zeros before it.
func (d *disk) rewrite(fill func(*os.File) error) error {
	f, err := os.OpenFile(d.image(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = f.Truncate(d.size); err == nil {
		err = fill(f)
	}
	return errors.Join(err, f.Close())
}

// bind takes a free loop device for the disk's file. It lets go of the file by
// itself once nobody has the device open or mounted: nothing is left of a run
// whose processes are all gone.
func (d *disk) bind() error {
	image, err := os.OpenFile(d.image(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }() // the device keeps it
	control, err := openDevice("/dev/loop-control", unix.S_IFCHR, 10, 237)
	if err != nil {
		return fmt.Errorf("%w: the kernel has no loop devices, or the engine keeps them from its containers; load the kernel module loop", err)
	}
	defer func() { _ = control.Close() }()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("asking for a free loop device: %w", err)
		}
		loop, number, err := openLoop(n)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(image.Fd()))
		if errors.Is(err, unix.EBUSY) { // somebody else was faster
			_ = loop.Close()
			continue
		}
		if err == nil {
			err = unix.IoctlLoopSetStatus64(int(loop.Fd()), &unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR})
		}
		if err != nil {
			return errors.Join(fmt.Errorf("setting up %s: %w", loop.Name(), err), loop.Close())
		}
		d.loop, d.number = loop, number
		return nil
	}
}

// openLoop opens loop device n and returns its number too.
func openLoop(n int) (*os.File, string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/dev", n))
	if err != nil {
		return nil, "", err
	}
	number := strings.TrimSpace(string(text))
	var major, minor uint32
	if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
		return nil, "", fmt.Errorf("number of loop device %d: %q: %w", n, number, err)
	}
	f, err := openDevice(fmt.Sprintf("/dev/loop%d", n), unix.S_IFBLK, major, minor)
	return f, number, err
}

// openDevice opens a device of the host, which is not among those of the container.
func openDevice(name string, kind, major, minor uint32) (*os.File, error) {
	err := unix.Mknod(name, kind|0o600, int(unix.Mkdev(major, minor)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making %s: %w", name, err)
	}
	return os.OpenFile(name, os.O_RDWR, 0)
}

func (d *disk) mount() error {
	err := unix.Mount(d.loop.Name(), d.top(), "ext4", unix.MS_NOATIME, "")
	if errors.Is(err, unix.ENODEV) {
		return errors.New("the kernel has no ext4; load the kernel module ext4 on the host")
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", d.loop.Name(), err)
	}
	return nil
}

// remount mounts the file system anew, which replays its log, and lets change
// work on the disk's file in between.
func (d *disk) remount(change func() error) error {
	if err := unix.Unmount(d.top(), 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", d.loop.Name(), err)
	}
	alone, err := d.alone()
	if err == nil {
		if change != nil {
			if err = d.flush(alone); err == nil {
				err = change()
			}
			if err == nil {
				err = d.flush(alone)
			}
		}
		err = errors.Join(err, alone.Close())
	}
	return errors.Join(err, d.mount())
}

// alone opens the device once nobody has it mounted: otherwise mounting it would
// give the old file system again, with all that it has in memory.
func (d *disk) alone() (*os.File, error) {
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(releaseRetry) {
		f, err := os.OpenFile(d.loop.Name(), os.O_RDWR|os.O_EXCL, 0)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s is still mounted by somebody else after %v", d.loop.Name(), releaseTimeout)
		}
	}
}

// flush forgets what the kernel remembers of the device's content.
func (d *disk) flush(alone *os.File) error {
	if err := unix.IoctlSetInt(int(alone.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flushing %s: %w", d.loop.Name(), err)
	}
	return nil
}

// onTop makes a call on the file system.
func (d *disk) onTop(call func(fd int) error) error {
	f, err := os.Open(d.top())
	if err != nil {
		return err
	}
	return errors.Join(call(int(f.Fd())), f.Close())
}

func (d *disk) shutDown(how int) error {
	if d.stubbed {
		return nil
	}
	return d.onTop(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, fsShutdown, how); err != nil {
			return fmt.Errorf("shutting the file system down: %w", err)
		}
		return nil
	})
}

// file is one of the sidecar's own.
func (d *disk) file(name string) string { return filepath.Join(d.top(), own+name) }

// writeCanary writes a file. Nothing but it is synced on purpose; the file system
// may write its neighbours out as well.
func (d *disk) writeCanary(name string, sync bool) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("name %q", name)
	}
	f, err := os.Create(d.file(name))
	if err != nil {
		return err
	}
	_, err = f.WriteString(name)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && sync {
		err = d.onTop(unix.Fsync)
	}
	return err
}

// hasCanary wants its content too: a file system may keep the name of a file that
// was never synced, and nothing in it.
func (d *disk) hasCanary(name string) (bool, error) {
	b, err := os.ReadFile(d.file(name))
	return string(b) == name, ignoreMissing(err)
}

// fill takes all room, without writing anything: blocks are reserved only.
func (d *disk) fill() error {
	if d.stubbed {
		return nil
	}
	f, err := os.Create(d.file("fill"))
	if err != nil {
		return err
	}
	at := int64(0)
	for chunk := d.size; chunk >= 4096; {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, chunk)
		switch {
		case err == nil:
			at += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		default:
			return errors.Join(fmt.Errorf("taking room: %w", err), f.Close())
		}
	}
	return f.Close()
}

// wipe makes the file system anew. Its top keeps its owner and its mode: the
// engine gave the volume those that the node's image wants, and does so once only.
func (d *disk) wipe() error {
	if d.stubbed {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(d.top(), &st); err != nil {
		return err
	}
	if err := d.remount(d.format); err != nil {
		return err
	}
	if err := os.Chown(d.top(), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(d.top(), st.Mode&0o7777); err != nil {
		return err
	}
	return d.onTop(unix.Syncfs)
}

// walk calls fn for every regular file that is not the sidecar's. Files may come
// and go meanwhile.
func (d *disk) walk(fn func(name string, info fs.FileInfo) error) error {
	return filepath.WalkDir(d.top(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err)
		}
		if !e.Type().IsRegular() || isOwn(path) {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		name, err := filepath.Rel(d.top(), path)
		if err != nil {
			return err
		}
		return fn(name, info)
	})
}

func (d *disk) files() ([]DiskFile, error) {
	var files []DiskFile
	err := d.walk(func(name string, info fs.FileInfo) error {
		files = append(files, DiskFile{Name: name, Size: info.Size()})
		return nil
	})
	slices.SortFunc(files, func(a, b DiskFile) int { return strings.Compare(a.Name, b.Name) })
	return files, err
}

func (d *disk) path(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("file %q is not on the disk", name)
	}
	return filepath.Join(d.top(), name), nil
}

// flip writes one byte, through to the disk and no other byte with it.
func (d *disk) flip(name string, offset int64, bit uint) error {
	path, err := d.path(name)
	if err != nil || d.stubbed {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DSYNC, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], offset); err == nil {
		b[0] ^= 1 << bit
		_, err = f.WriteAt(b[:], offset)
	}
	return errors.Join(err, f.Close())
}

func (d *disk) trim(name string, size int64) error {
	path, err := d.path(name)
	if err != nil || d.stubbed {
		return err
	}
	return os.Truncate(path, size)
}

func (d *disk) digest(name string, upTo int64) (string, error) {
	sum := sha256.New()
	add := func(path string, upTo int64) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(sum, io.LimitReader(f, upTo))
		return errors.Join(err, f.Close())
	}
	if name != "" {
		path, err := d.path(name)
		if err == nil {
			err = add(path, upTo)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return hex.EncodeToString(sum.Sum(nil)), err
	}
	err := d.walk(func(name string, info fs.FileInfo) error {
		fmt.Fprintf(sum, "%s %d\n", name, info.Size())
		return ignoreMissing(add(filepath.Join(d.top(), name), info.Size()))
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// copy takes the whole disk at one moment, as a backup or a snapshot does: the
// file system holds still meanwhile, with everything written out.
func (d *disk) copy() error {
	return d.onTop(func(fd int) error {
		if err := unix.IoctlSetInt(fd, fsFreeze, 0); err != nil {
			return fmt.Errorf("holding the file system still: %w", err)
		}
		err := copySparse(d.image(), d.copied())
		if thaw := unix.IoctlSetInt(fd, fsThaw, 0); thaw != nil {
			err = errors.Join(err, fmt.Errorf("letting the file system go on: %w", thaw))
		}
		return err
	})
}

func (d *disk) putBack() error {
	if d.stubbed {
		return nil
	}
	if _, err := os.Stat(d.copied()); err != nil {
		return errors.New("there is no copy")
	}
	return d.remount(func() error { return copySparse(d.copied(), d.image()) })
}

// copySparse copies what has been written of a file, and leaves the rest out.
func copySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(info.Size())
	for at := int64(0); err == nil; {
		var end int64
		if at, err = in.Seek(at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			err = nil // no more data
			break
		}
		if err == nil {
			end, err = in.Seek(at, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(in, at, end-at))
		}
		at = end
	}
	return errors.Join(err, out.Close())
}

// close lets go of the disk. The device goes when the node does as well.
func (d *disk) close() error {
	if d.loop == nil {
		return nil
	}
	err := errors.Join(unix.Unmount(d.top(), 0), d.loop.Close())
	d.loop = nil
	return err
}

// probe runs a process that writes and syncs a file: a process, as a throttle
// holds for processes, so that it must be among the node's to see what those see.
func (d *disk) probe(containers []string) (time.Duration, syscall.Errno, error) {
	args := []string{ProbeCommand, d.file("probe")}
	if group := d.groups.first(containers); group != "" {
		args = append(args, filepath.Join(group, "cgroup.procs"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskTimeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("probing: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	var r probed
	err = json.Unmarshal(out, &r)
	return r.Took, r.Errno, err
}

// ProbeCommand is the first argument of the process that probes a disk.
const ProbeCommand = "probe"

// probed is what that process prints.
type probed struct {
	Took  time.Duration
	Errno syscall.Errno
}

// probeBytes are more than what a nearly full disk may have left.
const probeBytes = 64 << 10

// Probe is that process: it joins the control group of the file procs (none:
// stays), writes file, syncs it and removes it again, and prints the sync's time
// or the error of the file system. An error that is not the file system's is returned.
func Probe(out io.Writer, file string, procs ...string) error {
	for _, p := range procs {
		if err := writeTo(p, "0"); err != nil {
			return err
		}
	}
	var r probed
	err := func() error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		if _, err = f.Write(make([]byte, probeBytes)); err == nil {
			begin := time.Now()
			err = f.Sync()
			r.Took = time.Since(begin)
		}
		return errors.Join(err, f.Close(), os.Remove(file))
	}()
	if err != nil && !errors.As(err, &r.Errno) {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

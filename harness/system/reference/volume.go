package reference

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	quorum "github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/broker/vfs"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/nemesis"
)

// volume is a node's two disks in the simulator: one holds the partition logs,
// the other the metadata log, so that a lost, full, broken or damaged data disk
// leaves the metadata quorum alone.
type volume struct {
	data, meta *vfs.Mem
	shared     *vfs.Mem          // the device that all nodes share; nil: they share none
	copied     map[string][]byte // the data disk's files at the time of Copy
}

var _ sim.Volume = (*volume)(nil)

// newVolume makes a node's empty disks.
func newVolume(string) sim.Volume { return &volume{data: vfs.NewMem(), meta: vfs.NewMem()} }

// newShared makes the volumes of nodes that keep the partition logs on one device.
func newShared() func(string) sim.Volume {
	device := vfs.NewMem()
	return func(string) sim.Volume { return &volume{data: vfs.NewMem(), meta: vfs.NewMem(), shared: device} }
}

// logs is the disk with the partition logs. What is done to it on a shared device is
// done to all nodes.
func (v *volume) logs() *vfs.Mem {
	if v.shared != nil {
		return v.shared
	}
	return v.data
}

// PowerLoss implements sim.Volume.
func (v *volume) PowerLoss(r *rand.Rand) {
	v.data.PowerLoss(r)
	v.meta.PowerLoss(r)
}

// Wipe implements sim.Volume.
func (v *volume) Wipe() { v.logs().Wipe() }

// Replace implements sim.Volume. The identity is the directory id of the new node.
func (v *volume) Replace(identity string) error {
	id, err := strconv.ParseUint(identity, 10, 48)
	if err != nil || id == 0 {
		return fmt.Errorf("identity %q is no number from 1 to below 2^48", identity)
	}
	v.data.Wipe()
	v.meta.Wipe()
	return storage.Format(v.meta, quorum.Directory(id))
}

// Copy implements sim.Volume.
func (v *volume) Copy() error {
	files := map[string][]byte{}
	err := v.walk(".", func(name string, _ int64) error {
		b, err := vfs.ReadFile(v.logs(), name)
		files[name] = b
		return err
	})
	if err == nil {
		v.copied = files
	}
	return err
}

// PutBack implements sim.Volume. Everything is durable then.
func (v *volume) PutBack() error {
	if v.copied == nil {
		return errors.New("there is no copy")
	}
	v.logs().Wipe()
	for _, name := range slices.Sorted(maps.Keys(v.copied)) {
		if dir := path.Dir(name); dir != "." {
			if err := vfs.MkdirSynced(v.logs(), dir); err != nil {
				return err
			}
		}
		f, err := v.logs().OpenFile(name, true)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(v.copied[name], 0)
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// DataDigest implements sim.Volume.
func (v *volume) DataDigest() string { return v.logs().Digest() }

// Digest implements sim.Volume.
func (v *volume) Digest() string {
	all := v.data.Digest() + v.meta.Digest()
	if v.shared != nil {
		all += v.shared.Digest()
	}
	sum := sha256.Sum256([]byte(all))
	return hex.EncodeToString(sum[:])
}

// canaries is how many files make one canary. Of files that were never synced a
// power loss may keep some, as real disks do; that it keeps all of so many is out
// of the question.
const canaries = 16

func canary(name string, i int) string { return fmt.Sprintf("%s.%d", name, i) }

// WriteCanary implements sim.Volume. It lies on the data disk.
func (v *volume) WriteCanary(name string, sync bool) error {
	for i := range canaries {
		f, err := v.data.OpenFile(canary(name, i), true)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(name), 0)
		if err == nil && sync {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if sync {
		return v.data.SyncDir(".")
	}
	return nil
}

// HasCanary implements sim.Volume: it is there if all of it is.
func (v *volume) HasCanary(name string) (bool, error) {
	for i := range canaries {
		b, err := vfs.ReadFile(v.data, canary(name, i))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil || string(b) != name {
			return false, err
		}
	}
	return true, nil
}

// Fill implements sim.Volume.
func (v *volume) Fill(on bool) {
	room := int64(0)
	if on {
		room = max(1, v.logs().Used()) // 0 would mean no limit
	}
	v.logs().SetCapacity(room)
}

// Break implements sim.Volume. Reads go on.
func (v *volume) Break(on bool) {
	if !on {
		v.logs().SetError(nil)
		return
	}
	v.logs().SetError(func(op, _ string) error {
		switch op {
		case vfs.OpOpen, vfs.OpRead, vfs.OpList, vfs.OpStat:
			return nil
		}
		return syscall.EIO
	})
}

const (
	probeFile  = "probe"
	probeBytes = 64 << 10 // more than what a nearly full disk may have left
)

// Probe implements sim.Volume.
func (v *volume) Probe() (err error) {
	f, err := v.logs().OpenFile(probeFile, true)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, probeBytes), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), v.logs().Remove(probeFile))
}

// Stored implements sim.Volume.
func (v *volume) Stored() int64 {
	total := int64(0)
	// An injected error hides nothing: it concerns changes only.
	_ = v.walk(storage.LogsDir, func(_ string, size int64) error { total += size; return nil })
	return total
}

// Files implements sim.Volume: the segments of the partition logs.
func (v *volume) Files() ([]nemesis.StoredFile, error) {
	var files []nemesis.StoredFile
	err := v.walk(storage.LogsDir, func(name string, size int64) error {
		if strings.HasSuffix(name, ".log") {
			files = append(files, nemesis.StoredFile{Name: name, Size: size})
		}
		return nil
	})
	slices.SortFunc(files, func(a, b nemesis.StoredFile) int { return strings.Compare(a.Name, b.Name) })
	return files, err
}

// walk calls fn for every file below dir; a dir that is not there has none.
func (v *volume) walk(dir string, fn func(name string, size int64) error) error {
	names, err := v.logs().List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		full := path.Join(dir, name)
		info, err := v.logs().Stat(full)
		if err != nil {
			return err
		}
		if !info.Dir {
			if err := fn(full, info.Size); err != nil {
				return err
			}
			continue
		}
		if err := v.walk(full, fn); err != nil {
			return err
		}
	}
	return nil
}

// FileDigest implements sim.Volume.
func (v *volume) FileDigest(file string, upTo int64) (string, error) {
	b, err := vfs.ReadFile(v.logs(), file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b[:min(upTo, int64(len(b)))])
	return hex.EncodeToString(sum[:]), nil
}

// Flip implements sim.Volume.
func (v *volume) Flip(file string, offset int64, bit uint) error {
	return v.logs().Flip(file, offset, bit)
}

// Cut implements sim.Volume.
func (v *volume) Cut(file string, size int64) error { return v.logs().Cut(file, size) }

// Locks implements sim.Volume.
func (v *volume) Locks() (map[string]string, error) {
	if v.shared == nil {
		return nil, nil
	}
	lanes, err := v.shared.List(storage.LogsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, lane := range lanes {
		name := path.Join(storage.LogsDir, lane, storage.LockFile)
		inode, err := v.shared.Inode(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[name] = strconv.FormatUint(inode, 10)
	}
	return found, nil
}

// RemoveLock implements sim.Volume.
func (v *volume) RemoveLock(name string, replace bool) error {
	if v.shared == nil {
		return errors.New("the nodes share no device")
	}
	if err := v.shared.Unlink(name); err != nil || !replace {
		return err
	}
	f, err := v.shared.OpenFile(name, true)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

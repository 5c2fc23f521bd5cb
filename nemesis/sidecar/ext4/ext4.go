// Package ext4 makes empty ext4 file systems. It needs no tool on the engine's
// host and none in the image, and leaves out what mkfs.ext4 always makes and a
// data volume must not have: the folder lost+found, which keeps the engine from
// giving the volume the owner that the image wants, and which Kafka takes for a
// broken partition.
//
// The layout is the plainest that the kernel takes: blocks of 4 KiB, no
// checksums, no copies of the superblock, and a journal. It follows
// https://docs.kernel.org/filesystems/ext4/.
package ext4

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

const (
	block     = 4096
	perGroup  = 8 * block // blocks of a group: its bitmap is one block
	inodeSize = 256
	inodes    = 4096 // per group
	table     = inodes * inodeSize / block
	journal   = 4096 // blocks

	rootInode    = 2
	journalInode = 8
	firstInode   = 11 // those before it are reserved
)

// GroupSize is what the size of a file system must be a multiple of, in bytes.
const GroupSize = perGroup * block

// maxGroups have their descriptors in one block.
const maxGroups = block / 32

// The features, of the three kinds: a kernel that does not know one of the first
// kind can use the file system, of the second not at all, of the third only read it.
const (
	hasJournal   = 0x4
	sparseSuper2 = 0x200 // copies of the superblock are where it says: nowhere

	fileTypes = 0x2
	extents   = 0x40

	largeFiles = 0x2
	extraSize  = 0x40
)

const usesExtents = 0x80000 // flag of an inode

type superblock struct {
	Inodes, Blocks, ReservedBlocks, FreeBlocks, FreeInodes      uint32
	FirstDataBlock, LogBlockSize, LogClusterSize                uint32
	BlocksPerGroup, ClustersPerGroup, InodesPerGroup            uint32
	MountTime, WriteTime                                        uint32
	MountCount, MaxMountCount, Magic, State, Errors, MinorLevel uint16
	CheckTime, CheckInterval, Creator, Revision                 uint32
	ReservedUser, ReservedGroup                                 uint16
	FirstInode                                                  uint32
	InodeSize, GroupNumber                                      uint16
	Compatible, Incompatible, ReadOnlyCompatible                uint32
	UUID                                                        [16]byte
	_                                                           [16 + 64 + 4 + 4]byte // names, hints
	JournalUUID                                                 [16]byte
	JournalInode                                                uint32
	_                                                           [4 + 4 + 16 + 1]byte // external journal, orphans, hashes
	JournalBackup                                               uint8
	_                                                           [2 + 4 + 4]byte
	MadeTime                                                    uint32
	JournalBlocks                                               [15]uint32 // as in its inode
	JournalSizeHigh, JournalSize                                uint32
	_                                                           [12]byte
	MinExtra, WantExtra                                         uint16
}

type group struct {
	BlockBitmap, InodeBitmap, InodeTable      uint32
	FreeBlocks, FreeInodes, Directories, Flag uint16
	_                                         [12]byte
}

type inode struct {
	Mode, User                      uint16
	Size                            uint32
	AccessTime, ChangeTime, ModTime uint32
	DeleteTime                      uint32
	Group, Links                    uint16
	Sectors                         uint32 // of 512 bytes
	Flags, Version                  uint32
	Blocks                          [15]uint32 // an extent tree
	_                               [28]byte
	Extra                           uint16
}

type journalHead struct { // big-endian
	Magic, Kind, Number                          uint32
	BlockSize, Blocks, First, Sequence, Start, _ uint32
	_                                            [12]byte
	UUID                                         [16]byte
	Users                                        uint32
	_                                            [188]byte
	User                                         [16]byte
}

// Format makes an empty file system of size bytes, a multiple of GroupSize, on
// what is all zeros. Its root belongs to user 0.
func Format(w io.WriterAt, size int64) error {
	groups := size / GroupSize
	if size <= 0 || size%GroupSize != 0 || groups > maxGroups {
		return fmt.Errorf("a file system of %d bytes: 1 to %d times %d bytes are possible", size, maxGroups, GroupSize)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	f := &format{w: w, now: uint32(time.Now().Unix())}

	// Group 0 holds the superblock and the descriptors before what every group
	// holds, and the root folder and the journal behind it.
	rootBlock := uint32(2 + 2 + table)
	journalBlock := rootBlock + 1
	descriptors := make([]group, groups)
	freeBlocks, freeInodes := uint32(0), uint32(0)
	for g := range uint32(groups) {
		first, used, usedInodes, directories := g*perGroup, uint32(2+table), uint32(0), uint16(0)
		if g == 0 {
			first, used, usedInodes, directories = 2, journalBlock+journal, firstInode-1, 1
		}
		descriptors[g] = group{
			BlockBitmap: first, InodeBitmap: first + 1, InodeTable: first + 2,
			FreeBlocks: uint16(perGroup - used), FreeInodes: uint16(inodes - usedInodes), Directories: directories,
		}
		freeBlocks += perGroup - used
		freeInodes += inodes - usedInodes
		f.write(int64(first)*block, bitmap(used, perGroup))
		f.write(int64(first+1)*block, bitmap(usedInodes, inodes))
	}
	f.put(block, binary.LittleEndian, descriptors)

	root := f.inode(0o40755, 2, rootBlock, 1)
	log := f.inode(0o100600, 1, journalBlock, journal)
	inodeAt := func(n int64) int64 { return int64(descriptors[0].InodeTable)*block + (n-1)*inodeSize }
	f.put(inodeAt(rootInode), binary.LittleEndian, root)
	f.put(inodeAt(journalInode), binary.LittleEndian, log)
	f.write(int64(rootBlock)*block, rootFolder())
	f.put(int64(journalBlock)*block, binary.BigEndian, journalHead{
		Magic: 0xc03b3998, Kind: 4, BlockSize: block, Blocks: journal, First: 1, Sequence: 1, UUID: id, Users: 1, User: id,
	})
	f.put(1024, binary.LittleEndian, superblock{
		Inodes: uint32(groups) * inodes, Blocks: uint32(groups) * perGroup, FreeBlocks: freeBlocks, FreeInodes: freeInodes,
		LogBlockSize: 2, LogClusterSize: 2, BlocksPerGroup: perGroup, ClustersPerGroup: perGroup, InodesPerGroup: inodes,
		WriteTime: f.now, MaxMountCount: 0xffff, Magic: 0xef53, State: 1, Errors: 1, CheckTime: f.now, Revision: 1,
		FirstInode: firstInode, InodeSize: inodeSize,
		Compatible: hasJournal | sparseSuper2, Incompatible: fileTypes | extents, ReadOnlyCompatible: largeFiles | extraSize,
		UUID: id, JournalInode: journalInode, JournalBackup: 1, MadeTime: f.now,
		JournalBlocks: log.Blocks, JournalSize: log.Size, MinExtra: 32, WantExtra: 32,
	})
	if f.err != nil {
		return fmt.Errorf("formatting: %w", f.err)
	}
	return nil
}

// format writes until something fails.
type format struct {
	w   io.WriterAt
	now uint32
	err error
}

func (f *format) write(at int64, b []byte) {
	if f.err == nil {
		_, f.err = f.w.WriteAt(b, at)
	}
}

func (f *format) put(at int64, order binary.ByteOrder, v any) {
	var b bytes.Buffer
	if err := binary.Write(&b, order, v); err != nil && f.err == nil {
		f.err = err
	}
	f.write(at, b.Bytes())
}

// inode is that of a file in one run of blocks.
func (f *format) inode(mode, links uint16, first, blocks uint32) inode {
	return inode{
		Mode: mode, Size: blocks * block, AccessTime: f.now, ChangeTime: f.now, ModTime: f.now, Links: links, Sectors: blocks * block / 512,
		Flags: usesExtents, Extra: 32,
		// The tree's head (magic, 1 entry of 4, depth 0), then the extent: from block 0 of the file on, so many, at first.
		Blocks: [15]uint32{0x1_f30a, 4, 0, 0, blocks, first},
	}
}

// bitmap marks the first used ones, and what is beyond size.
func bitmap(used, size uint32) []byte {
	b := make([]byte, block)
	for i := range uint32(8 * block) {
		if i < used || i >= size {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// rootFolder holds "." and "..", which takes the rest of the block.
func rootFolder() []byte {
	b := make([]byte, block)
	entry := func(at, length int, name string) {
		binary.LittleEndian.PutUint32(b[at:], rootInode)
		binary.LittleEndian.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(name)), 2 // a folder
		copy(b[at+8:], name)
	}
	entry(0, 12, ".")
	entry(12, block-12, "..")
	return b
}

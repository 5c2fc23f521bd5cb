// Package combined spreads masters, each with its slaves, over a cluster, as RocketMQ
// does (SCHEMES.md 1.9). Each partition is an instance of scheme standby; several of
// them make a cluster in which one node's death stops the queues that it is the master
// of, and no others.
//
// Without a controller (2m-2s) a dead master's queues wait for it: new writes go to the
// other masters, and what its slaves have can be read from them. With a controller the
// metadata quorum keeps the in-sync set (SyncStateSet) and makes another master out of it.
//
// Sources of the rules: RocketMQ 5 ReplicasManager.changeToMaster (every master that a
// controller makes is a SYNC_MASTER), CommitLog.getConfirmOffset, AutoSwitchHAService
// (truncation by master epoch and start offset), ReplicasInfoManager.electMaster.
package combined

import "github.com/faultline-mq/faultline/broker/scheme/standby"

// New makes the machine of one replica. It is a scheme.Factory.
var New = standby.NewSynchronous

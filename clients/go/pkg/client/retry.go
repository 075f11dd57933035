package client

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "real-time-analytics-platform/api/proto"
)

// withIDs gives events without an id one, in a copy of the request. The server recognises a repeat by the id, so a call
// whose answer was lost can be sent again and is stored once. The caller's own events stay without, for they may be
// sent again on purpose, as new ones.
func withIDs(request any) any {
	switch request := request.(type) {
	case *pb.IngestEventRequest:
		if request.GetEvent() == nil || request.GetEvent().GetId() != "" {
			return request
		}
		copied := proto.CloneOf(request)
		copied.Event.Id = newID()
		return copied
	case *pb.IngestEventsRequest:
		missing := false
		for _, event := range request.GetEvents() {
			missing = missing || (event != nil && event.GetId() == "")
		}
		if !missing {
			return request
		}
		copied := proto.CloneOf(request)
		for _, event := range copied.Events {
			if event != nil && event.Id == "" {
				event.Id = newID()
			}
		}
		return copied
	}
	return request
}

// newID is a UUID of version 7, as the server would give it: ids sort by time.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		// The system has no randomness: without an id the server gives one, and a repeat is not recognised.
		return ""
	}
	return id.String()
}

// mayRepeat says whether a call does no harm when it is done twice: it only reads, or its events have ids.
func mayRepeat(method string, request any) bool {
	switch request := request.(type) {
	case *pb.IngestEventRequest:
		return request.GetEvent().GetId() != ""
	case *pb.IngestEventsRequest:
		for _, event := range request.GetEvents() {
			if event.GetId() == "" {
				return false
			}
		}
		return true
	}
	return strings.HasPrefix(method, "/analytics.v1.AnalyticsService/") ||
		strings.HasPrefix(method, "/analytics.v1.MetricsService/") ||
		strings.HasPrefix(method, "/grpc.health.v1.Health/") ||
		strings.HasSuffix(method, "/Health")
}

// retryable says whether the answer of a call that failed may be another one the next time.
func retryable(err error, repeatIsSafe bool, request any) bool {
	if message, ok := request.(proto.Message); ok && proto.Size(message) > messageBytesMax {
		// Too large is RESOURCE_EXHAUSTED, and stays so.
		return false
	}
	answer := status.Convert(err)
	switch answer.Code() {
	case codes.Unavailable, codes.ResourceExhausted:
		// With RetryInfo the server itself says that it did not take it.
		_, refused := retryInfo(answer)
		return repeatIsSafe || refused
	case codes.DeadlineExceeded:
		return repeatIsSafe
	}
	return false
}

func retryInfo(answer *status.Status) (time.Duration, bool) {
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// wait is how long to wait before retry number n (from 1): a random time up to n delays, at least half of that, so that
// clients refused together do not come back together; and never less than the server asks for.
func wait(n int, delay time.Duration, err error) time.Duration {
	longest := time.Duration(n) * delay
	waited := longest/2 + rand.N(longest/2+1)
	asked, _ := retryInfo(status.Convert(err))
	return max(waited, asked)
}

// repeat sends a call until it succeeds, may not be repeated, or the budget of retries or of time would be exceeded. A
// wait that would outlast the context is not begun: the caller has the server's error instead of a late one of ours.
func (c *Client) repeat(ctx context.Context, method string, request any, send func() error) error {
	repeatIsSafe := mayRepeat(method, request)
	for n := 1; ; n++ {
		err := send()
		if err == nil || n > c.config.MaxRetries || ctx.Err() != nil || !retryable(err, repeatIsSafe, request) {
			return err
		}
		pause := wait(n, c.config.RetryDelay, err)
		if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= pause {
			return err
		}
		c.logger.WithError(err).WithField("method", method).Warnf("sending again in %v (%d of %d)",
			pause.Round(time.Millisecond), n, c.config.MaxRetries)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// SPDX-License-Identifier: Apache-2.0
#pragma once

/** The whole inference API: include this, link instseg::instseg. Training adds instseg/model.h. */
#include "instseg/config.h"
#include "instseg/error.h"
#include "instseg/image.h"
#include "instseg/instances.h"
#include "instseg/masks.h"
#include "instseg/predictor.h"
#include "instseg/preprocess.h"
#include "instseg/presets.h"
#include "instseg/rle.h"
#include "instseg/version.h"

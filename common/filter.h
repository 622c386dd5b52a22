/* common/filter.h - how an image is resized: what a model's folder asks for and the image room does. */
#pragma once

enum image_filter { IMAGE_BILINEAR = 2, IMAGE_BICUBIC = 3 }; /* PIL's numbers */
